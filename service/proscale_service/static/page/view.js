// The canvas: the picture, its masks from a map of segment numbers, zoom and pan.
import { colourOf } from "./colours.js";

const MOST = 2048; // pixels of the longer side of what is painted; a larger picture is shown through a coarser grid
const WORKER = new URL("worker.js", import.meta.url);

export class View {
  constructor(stage, onHover) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.onHover = onHover;
    this.worker = new Worker(WORKER, { type: "module" });
    this.worker.onmessage = ({ data }) => {
      if (data.turn !== this.turn) return; // of a picture or filter that is no longer shown
      this.map = data.map;
      this.paint();
    };
    this.turn = 0;
    this.highlight = 0;
    this.opacity = 0.45;
    this.outlines = true;
    this.fit();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  /** Show a picture (an ImageBitmap of at most MOST pixels a side) without masks. */
  setPicture(bitmap) {
    this.bitmap = bitmap;
    this.segments = [];
    this.map = null;
    this.layer = null;
    this.turn += 1;
    this.fit();
  }

  setSegments(segments, visible) {
    this.segments = segments;
    const { height, width } = this.bitmap;
    this.worker.postMessage({ kind: "load", turn: ++this.turn, height, width, segments, visible });
  }

  setVisible(visible) {
    this.worker.postMessage({ kind: "paint", turn: ++this.turn, visible });
  }

  set(options) {
    Object.assign(this, options);
    this.paint();
  }

  /** Colours of the map, as a layer to lay over the picture. */
  paint() {
    if (!this.map || !this.bitmap) return this.draw();
    const { height, width } = this.bitmap;
    const pixels = new ImageData(width, height);
    const colours = new Uint32Array(pixels.data.buffer);
    const table = new Uint32Array(this.segments.length + 1);
    const alpha = (share) => Math.round(255 * share) << 24;
    this.segments.forEach((segment, index) => {
      const [red, green, blue] = colourOf(segment);
      const share = index + 1 === this.highlight ? Math.min(1, this.opacity + 0.35) : this.opacity;
      table[index + 1] = (alpha(share) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    const white = 0xd0ffffff;
    const map = this.map;
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const number = map[at];
        if (!number) continue;
        const edge = this.outlines && ((x && map[at - 1] !== number) || (y && map[at - width] !== number));
        colours[at] = edge ? white : table[number];
      }
    }
    this.layer ??= new OffscreenCanvas(width, height);
    this.layer.getContext("2d").putImageData(pixels, 0, 0);
    this.draw();
  }

  draw() {
    const { canvas, stage } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio));
    if (!this.bitmap) return;
    const { scale, left, top } = this.placed();
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = scale < 2;
    context.setTransform(scale, 0, 0, scale, left, top);
    context.drawImage(this.bitmap, 0, 0);
    if (this.layer) context.drawImage(this.layer, 0, 0);
  }

  placed() {
    const { width, height } = this.canvas;
    const scale = Math.min(width / this.bitmap.width, height / this.bitmap.height) * this.zoom;
    return {
      scale,
      left: width / 2 - this.bitmap.width * scale * (0.5 + this.x),
      top: height / 2 - this.bitmap.height * scale * (0.5 + this.y),
    };
  }

  fit() {
    [this.zoom, this.x, this.y] = [1, 0, 0];
    this.draw();
  }

  zoomBy(factor) {
    this.zoom = Math.min(40, Math.max(1, this.zoom * factor));
    if (this.zoom === 1) [this.x, this.y] = [0, 0];
    this.draw();
  }

  /** Args: shares of the stage. */
  moveBy(x, y) {
    const clamp = (value) => Math.min(0.5, Math.max(-0.5, value));
    this.x = clamp(this.x + x / this.zoom);
    this.y = clamp(this.y + y / this.zoom);
    this.draw();
  }

  /** Index of the segment under a point of the page, -1 for none. */
  at(event) {
    if (!this.map) return -1;
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    const { scale, left, top } = this.placed();
    const x = Math.floor(((event.clientX - box.left) * ratio - left) / scale);
    const y = Math.floor(((event.clientY - box.top) * ratio - top) / scale);
    const inside = x >= 0 && y >= 0 && x < this.bitmap.width && y < this.bitmap.height;
    return inside ? this.map[y * this.bitmap.width + x] - 1 : -1;
  }

  listen() {
    const { stage } = this;
    let held = null;
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      held = event;
      stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      if (held) {
        this.moveBy((held.clientX - event.clientX) / stage.clientWidth, (held.clientY - event.clientY) / stage.clientHeight);
        held = event;
      }
      this.onHover(this.at(event), event);
    });
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => (held = null));
    stage.addEventListener("pointerleave", () => this.onHover(-1));
    stage.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      if (moves[event.key]) this.moveBy(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
      else if (event.key === "-") this.zoomBy(0.8);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    });
  }
}

/** A picture for the canvas: decoded by the browser, turned by its EXIF orientation, at most MOST pixels a side. */
export async function toBitmap(blob) {
  const whole = await createImageBitmap(blob);
  const shrink = Math.min(1, MOST / Math.max(whole.width, whole.height));
  if (shrink === 1) return whole;
  const small = await createImageBitmap(whole, {
    resizeWidth: Math.max(1, Math.round(whole.width * shrink)),
    resizeHeight: Math.max(1, Math.round(whole.height * shrink)),
    resizeQuality: "medium",
  });
  whole.close();
  return small;
}
