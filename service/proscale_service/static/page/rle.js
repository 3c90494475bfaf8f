// COCO run-length encoding: column-major runs, zeros first, in a compressed ASCII string.

/** Run lengths of a compressed string. Throws when it is cut off or holds foreign characters. */
export function decompress(counts) {
  const runs = [];
  let position = 0;
  while (position < counts.length) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const code = counts.charCodeAt(position) - 48;
      if (!(code >= 0 && code < 64)) throw new Error("not a COCO RLE string");
      position += 1;
      value += (code & 31) * 2 ** shift;
      shift += 5;
      more = (code & 32) !== 0;
      if (!more && code & 16) value -= 2 ** shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/**
 * The mask seen through a grid of width x height cells, as start and end (exclusive) of its column-major runs there.
 * A cell belongs to the mask when the pixel under its centre does. With the mask's own size this is exact.
 */
export function runsOnGrid(rle, height, width) {
  const [rows, columns] = rle.size;
  const cellOfColumn = new Int32Array(columns).fill(-1);
  for (let x = 0; x < width; x++) cellOfColumn[Math.floor(((x + 0.5) * columns) / width)] = x;
  const firstCell = (row) => Math.max(0, Math.ceil((row * height) / rows - 0.5));
  const found = [];
  let position = 0;
  decompress(rle.counts).forEach((length, index) => {
    if (index % 2 === 1) {
      const end = position + length;
      for (let column = Math.floor(position / rows); column * rows < end; column++) {
        const x = cellOfColumn[column];
        if (x < 0) continue;
        const top = firstCell(Math.max(position - column * rows, 0));
        const bottom = firstCell(Math.min(end - column * rows, rows));
        if (bottom > top) found.push(x * height + top, x * height + bottom);
      }
    }
    position += length;
  });
  return Uint32Array.from(found);
}
