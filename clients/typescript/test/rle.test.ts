// The decoder against masks that pycocotools encoded: a JSON file of {size, counts, runs, mask}, made by the Python test.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { decodeMask, maskArea, runLengths } from "../src/index.js";

interface Case {
  size: number[];
  counts: string;
  runs: number[];
  mask: number[];
}
const cases = JSON.parse(readFileSync(process.env.RLE_CASES!, "utf8")) as Case[];

test("masks are those of pycocotools, from the string and from the list", () => {
  assert.ok(cases.length > 50);
  for (const { size, counts, runs, mask } of cases) {
    assert.deepEqual(runLengths({ size, counts }), runs);
    assert.deepEqual([...decodeMask({ size, counts })], mask);
    assert.deepEqual([...decodeMask({ size, counts: runs })], mask);
    assert.equal(maskArea({ size, counts }), mask.reduce((sum, each) => sum + each, 0));
  }
});

test("broken masks are refused", () => {
  for (const counts of ["", "~~", "P", "05", [3], [5, -1]]) assert.throws(() => decodeMask({ size: [2, 2], counts }), RangeError);
});
