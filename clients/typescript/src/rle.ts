// COCO run-length encoding: runs of a column-major mask, the first of them zeros; as a list, or as pycocotools' compressed string.

/** A mask as the service writes it. */
export interface Rle {
  /** [height, width] in pixels. */
  readonly size: readonly number[];
  readonly counts: string | readonly number[];
}

const OFFSET = 48;
const GROUP_BITS = 5;
const CONTINUE = 0x20;
const SIGN = 0x10;

/** Run lengths of a mask, zeros first. Throws RangeError when the string is none, or the runs do not fill the size. */
export function runLengths(rle: Rle): number[] {
  const [height = 0, width = 0] = rle.size;
  const runs = typeof rle.counts === "string" ? decompress(rle.counts) : [...rle.counts];
  let total = 0;
  for (const run of runs) {
    if (!(run >= 0)) throw new RangeError("an RLE has a negative run");
    total += run;
  }
  if (total !== height * width) throw new RangeError(`the runs of an RLE of ${height}x${width} pixels cover ${total}`);
  return runs;
}

/** The mask, row by row: 1 inside, 0 outside; the pixel in column x and row y is at y * width + x. */
export function decodeMask(rle: Rle): Uint8Array {
  const [height = 0, width = 0] = rle.size;
  const mask = new Uint8Array(height * width);
  for (const [start, end] of ones(rle)) {
    let row = start % height;
    let at = row * width + Math.floor(start / height);
    for (let position = start; position < end; position++) {
      mask[at] = 1;
      at += width;
      if (++row === height) {
        row = 0;
        at -= height * width - 1;
      }
    }
  }
  return mask;
}

/** Pixels inside the mask, without decoding it. */
export function maskArea(rle: Rle): number {
  let area = 0;
  for (const [start, end] of ones(rle)) area += end - start;
  return area;
}

/** Start and end (behind the last pixel) of every run of ones; positions are column by column. */
export function* ones(rle: Rle): Generator<[start: number, end: number]> {
  let position = 0;
  let inside = false;
  for (const run of runLengths(rle)) {
    if (inside && run > 0) yield [position, position + run];
    position += run;
    inside = !inside;
  }
}

function decompress(text: string): number[] {
  const runs: number[] = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let weight = 1;
    for (;;) {
      const code = text.charCodeAt(at) - OFFSET;
      if (!(code >= 0 && code < 2 * CONTINUE)) throw new RangeError("not a COCO RLE string");
      at++;
      // Numbers, not bit operations: a run may be longer than 31 bits.
      value += (code & (CONTINUE - 1)) * weight;
      weight *= 1 << GROUP_BITS;
      if (code & CONTINUE) continue;
      if (code & SIGN) value -= weight;
      break;
    }
    // From the fourth on, a run is the difference to the one two before.
    runs.push(runs.length > 2 ? value + runs[runs.length - 2]! : value);
  }
  return runs;
}
