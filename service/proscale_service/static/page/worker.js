// Decodes masks and paints maps of segment numbers away from the page's own thread, so that large pictures never freeze it.
import { runsOnGrid } from "./rle.js";

let grid = { height: 0, width: 0 };
let masks = [];

onmessage = ({ data }) => {
  if (data.kind === "load") {
    grid = { height: data.height, width: data.width };
    masks = data.segments.map((segment) => runsOnGrid(segment.segmentation, grid.height, grid.width));
  }
  const map = paint(data.visible);
  postMessage({ turn: data.turn, map }, [map.buffer]);
};

/** Row-major map of (index of the segment + 1), 0 where none is. `visible` is in painting order: the last one is on top. */
function paint(visible) {
  const { height, width } = grid;
  const columns = new Uint16Array(height * width);
  for (const index of visible) {
    const runs = masks[index];
    for (let i = 0; i < runs.length; i += 2) columns.fill(index + 1, runs[i], runs[i + 1]);
  }
  const map = new Uint16Array(height * width);
  for (let x = 0; x < width; x++) for (let y = 0, from = x * height; y < height; y++) map[y * width + x] = columns[from + y];
  return map;
}
