// The colours of the service's own overlays: stuff by category, so that it looks alike everywhere; things all different.

const GOLDEN_RATIO = 0.618034;

export function colourOf(segment) {
  const step = segment.isthing ? segment.id : segment.category_id * 7;
  const [saturation, value] = segment.isthing ? [0.85, 1] : [0.45, 0.75];
  const hue = ((step * GOLDEN_RATIO) % 1) * 6;
  return [5, 3, 1].map((offset) => {
    const k = (offset + hue) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}
