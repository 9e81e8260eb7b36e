// A file that somebody chose, dropped or pasted, as intensities of the model's size.
//
// What a file is, is told by its first bytes and never by its name; its size is known before it is decoded. Vector
// formats are programs, and are refused.

import { bytes } from "./numbers.js";

const MOST_BYTES = 20e6;
const MOST_PIXELS = 50e6;

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
 * Intensities in 0 ... 1 of a canvas or bitmap at the model's size, channels first; the whole picture is kept, black
 * fills what is left. `invert` turns ink on paper into light on black.
 */
export function intensities(source, { width, height, channels }, invert = false) {
  let [image, from] = [source, [source.width, source.height]];
  const scale = Math.min(width / from[0], height / from[1]);
  // Halved again and again, so that every pixel of a large picture counts.
  while (from[0] * scale * 2 < from[0] && Math.min(...from) >= 4) {
    const next = from.map((side) => Math.ceil(side / 2));
    if (Math.max(next[0] / width, next[1] / height) < 1) break;
    image = drawn(image, next, [0, 0, ...next], false);
    from = next;
  }
  const fit = Math.min(width / from[0], height / from[1]);
  const size = from.map((side) => Math.max(1, side * fit));
  const place = [(width - size[0]) / 2, (height - size[1]) / 2, ...size];
  const pixels = drawn(image, [width, height], place, invert).getContext("2d").getImageData(0, 0, width, height).data;
  const area = width * height;
  const x = new Float32Array(area * channels);
  for (let i = 0; i < area; i += 1) {
    const [red, green, blue] = pixels.subarray(4 * i, 4 * i + 3);
    if (channels === 1) x[i] = (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
    else [red, green, blue].forEach((value, c) => { x[c * area + i] = value / 255; });
  }
  return x;
}

function drawn(image, [width, height], place, invert) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "black";
  context.fillRect(0, 0, width, height);
  if (invert) {
    context.fillStyle = "white";
    context.fillRect(...place);
    context.globalCompositeOperation = "difference";
  }
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...place);
  return canvas;
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
