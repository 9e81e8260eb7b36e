// A file that somebody chose, dropped or pasted, as intensities of the model's size.
//
// What a file is, is told by its first bytes and never by its name; its size is known before it is decoded. Vector
// formats are programs, and are refused.

import { bytes } from "./numbers.js";

const MOST_BYTES = 20e6;
const MOST_PIXELS = 50e6;
const LONGEST = 2048;

const ascii = (data, from, count) => String.fromCharCode(...data.subarray(from, from + count));

/** {format, width, height} by the header of a file. Throws an error for people if it is none of these formats. */
export function sniff(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const at = (format, width, height) => ({ format, width, height });
  try {
    if (ascii(data, 0, 8) === "\x89PNG\r\n\x1a\n") return at("PNG", view.getUint32(16), view.getUint32(20));
    if (/^GIF8[79]a/.test(ascii(data, 0, 6))) return at("GIF", view.getUint16(6, true), view.getUint16(8, true));
    if (ascii(data, 0, 2) === "BM") return at("BMP", Math.abs(view.getInt32(18, true)), Math.abs(view.getInt32(22, true)));
    if (ascii(data, 0, 4) === "RIFF" && ascii(data, 8, 4) === "WEBP") return at("WebP", ...webp(data, view));
    if (data[0] === 0xff && data[1] === 0xd8) return at("JPEG", ...jpeg(view));
  } catch (error) {
    if (error instanceof RangeError) throw new Error("The file ends in the middle of its header.");
    throw error;
  }
  const start = ascii(data, 0, 256).trimStart().toLowerCase();
  if (start.startsWith("<svg") || (start.startsWith("<?xml") && ascii(data, 0, 1024).includes("<svg"))) {
    throw new Error("SVG files are drawings that run, and are not opened here: save it as PNG first.");
  }
  throw new Error("This is no picture, whatever its name says: choose a PNG, JPEG, WebP, GIF or BMP file.");
}

function webp(data, view) {
  const kind = ascii(data, 12, 4);
  if (kind === "VP8 ") return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
  if (kind === "VP8L") {
    const packed = view.getUint32(21, true);
    return [(packed & 0x3fff) + 1, ((packed >> 14) & 0x3fff) + 1];
  }
  const three = (place) => view.getUint16(place, true) + (view.getUint8(place + 2) << 16) + 1;
  return [three(24), three(27)];
}

/** The first frame header among the markers (ITU-T T.81, B.1). */
function jpeg(view) {
  for (let place = 2; ;) {
    const marker = view.getUint16(place);
    const frame = marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker);
    if (frame) return [view.getUint16(place + 7), view.getUint16(place + 5)];
    if (marker < 0xff00) throw new Error("This JPEG file is damaged.");
    place += 2 + view.getUint16(place + 2);
  }
}

/** The decoded picture of a file and what to say of it. Throws an error for people. */
export async function open(file) {
  if (file.size > MOST_BYTES) throw new Error(`The file has ${bytes(file.size)}; pictures up to ${bytes(MOST_BYTES)} are opened.`);
  if (file.size === 0) throw new Error("The file is empty.");
  const { format, width, height } = sniff(new Uint8Array(await file.arrayBuffer()));
  if (width * height > MOST_PIXELS) {
    throw new Error(`The picture is ${width} × ${height}; up to ${MOST_PIXELS / 1e6} million pixels are opened.`);
  }
  try {
    const bitmap = await createImageBitmap(new Blob([file], { type: `image/${format.toLowerCase()}` }));
    return { bitmap, words: `${format}, ${bitmap.width} × ${bitmap.height}` };
  } catch {
    throw new Error(`This ${format} file is damaged: the browser cannot decode it.`);
  }
}

/**
 * Intensities in 0 ... 1 of a canvas or bitmap at the model's size, channels first: the mean of all that a pixel covers.
 * The whole picture is kept, black fills what is left. `invert` turns ink on paper into light on black.
 */
export function intensities(source, { width, height, channels }, invert = false) {
  const [w, h, layers] = pixelsOf(source, channels, invert);
  const scale = Math.min(width / w, height / h);
  const across = covered(width, w, scale);
  const down = covered(height, h, scale);
  const area = width * height;
  const x = new Float32Array(area * channels);
  for (let c = 0; c < channels; c += 1) {
    down.forEach((rows, j) => across.forEach((columns, i) => {
      let total = 0;
      for (const [v, tall] of rows) for (const [u, wide] of columns) total += layers[c][v * w + u] * wide * tall;
      x[c * area + j * width + i] = Math.min(1, (total * scale * scale) / 255);
    }));
  }
  return x;
}

/** For each of `count` pixels the [index, length] of the source's pixels that it covers, the picture in the middle. */
function covered(count, size, scale) {
  const before = (count - size * scale) / 2;
  return Array.from({ length: count }, (_, i) => {
    const [from, to] = [(i - before) / scale, (i + 1 - before) / scale];
    const parts = [];
    for (let k = Math.max(0, Math.floor(from)); k < Math.min(size, to); k += 1) {
      const length = Math.min(to, k + 1) - Math.max(from, k);
      if (length > 0) parts.push([k, length]);
    }
    return parts;
  });
}

/** Width, height, and one layer of levels 0 ... 255 for each channel. */
function pixelsOf(source, channels, invert) {
  const shrink = Math.min(1, LONGEST / Math.max(source.width, source.height));
  const [w, h] = [source.width, source.height].map((side) => Math.max(1, Math.round(side * shrink)));
  const context = new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, w, h);
  const { data } = context.getImageData(0, 0, w, h);
  const grey = (i) => 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  let [light, opaque] = [0, 0];
  for (let i = 0; i < w * h; i += 1) {
    light += grey(i) * data[4 * i + 3];
    opaque += data[4 * i + 3];
  }
  // Behind what is transparent: dark ink lies on white, light ink on black.
  const paper = light > 127 * opaque ? 0 : 255;
  const layers = Array.from({ length: channels }, () => new Float32Array(w * h));
  for (let i = 0; i < w * h; i += 1) {
    const alpha = data[4 * i + 3] / 255;
    for (let c = 0; c < channels; c += 1) {
      const level = (channels === 1 ? grey(i) : data[4 * i + c]) * alpha + paper * (1 - alpha);
      layers[c][i] = invert ? 255 - level : level;
    }
  }
  return [w, h, layers];
}

/** Whether a picture is dark on light, by its border. */
export function looksInverted(source) {
  const side = 16;
  const x = intensities(source, { width: side, height: side, channels: 1 });
  const wide = Math.min(1, source.width / source.height) * side;
  const tall = Math.min(1, source.height / source.width) * side;
  const [left, top] = [Math.ceil((side - wide) / 2), Math.ceil((side - tall) / 2)];
  const right = Math.max(left, side - 1 - left);
  const bottom = Math.max(top, side - 1 - top);
  const corners = [[left, top], [right, top], [left, bottom], [right, bottom]];
  return corners.reduce((total, [i, j]) => total + x[j * side + i], 0) / 4 > 0.5;
}
