// Arrays on the wire: {dtype, shape, data: base64, little-endian, row-major}, or nested lists.

const TYPES = { uint8: Uint8Array, int64: BigInt64Array, float32: Float32Array, float64: Float64Array };

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function textOf(bytes) {
  if (bytes.toBase64) return bytes.toBase64();
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

/** {shape, data} of an array in an answer; null stays null. Integers become ordinary numbers. */
export function unpack(value) {
  if (value === null || value === undefined) return null;
  if (!Array.isArray(value)) {
    const bytes = bytesOf(value.data);
    const data = new TYPES[value.dtype](bytes.buffer, bytes.byteOffset, bytes.byteLength / TYPES[value.dtype].BYTES_PER_ELEMENT);
    return { shape: value.shape, data: value.dtype === "int64" ? Float64Array.from(data, Number) : data };
  }
  const shape = [];
  for (let level = value; Array.isArray(level); [level] = level) shape.push(level.length);
  return { shape, data: Float64Array.from(value.flat(Infinity), (number) => number ?? NaN) };
}

/** What a request carries for a typed array of that shape. */
export function pack(data, shape) {
  const [dtype] = Object.entries(TYPES).find(([, type]) => data instanceof type);
  return { dtype, shape, data: textOf(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) };
}

/** Row i of an array, as a view. */
export function row(array, i) {
  const size = array.data.length / array.shape[0];
  return array.data.subarray(i * size, (i + 1) * size);
}

/** Rows of equal length as one float32 array (n, d). */
export function stack(rows) {
  const data = new Float32Array(rows.length * rows[0].length);
  rows.forEach((values, i) => data.set(values, i * values.length));
  return pack(data, [rows.length, rows[0].length]);
}

/** Arrays of one shape, one after the other along the first axis. */
export function join(arrays) {
  const [{ shape, data }] = arrays;
  const joined = new data.constructor(arrays.length * data.length);
  arrays.forEach((array, i) => joined.set(array.data, i * data.length));
  return { shape: [arrays.length * shape[0], ...shape.slice(1)], data: joined };
}
