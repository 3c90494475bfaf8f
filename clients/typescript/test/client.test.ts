// The client against the live service at SERVICE_URL, and against scripted answers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Client, maskOf, ServiceError } from "../src/index.js";

const url = process.env.SERVICE_URL!;
const picture = readFileSync(process.env.PICTURE!);
const [x, y, width, height] = JSON.parse(process.env.BOX!) as [number, number, number, number];

test("masks of a live service", async () => {
  const answer = await new Client(url).segment(picture, { task: ["instance"], labels: ["blob"], priority: "interactive" });
  const [segment] = answer.segments!;
  assert.deepEqual(segment!.bbox, [x, y, width, height]);
  const mask = maskOf(segment!);
  for (let row = 0; row < answer.image.height; row++) {
    for (let column = 0; column < answer.image.width; column++) {
      const inside = column >= x && column < x + width && row >= y && row < y + height;
      assert.equal(mask[row * answer.image.width + column], Number(inside));
    }
  }
});

test("other formats, models, ready", async () => {
  const client = new Client(`${url}/`);
  const shapes = JSON.parse(await (await client.file(picture, { format: ["geojson"], labels: ["blob"] })).text()) as { features: unknown[] };
  assert.equal(shapes.features.length, 1);
  assert.equal((await client.models())[0]!.name, "threshold");
  assert.equal(await client.ready(), true);
  assert.equal(await new Client("http://127.0.0.1:1").ready(), false);
});

test("errors say what the service said", async () => {
  const error = await new Client(url).segment(picture, { threshold: 7 }).then(() => assert.fail(), (each: unknown) => each);
  assert.ok(error instanceof ServiceError);
  assert.equal(error.status, 422);
  assert.equal(error.reason, "invalid-parameter");
  assert.match(error.message, /threshold/);
  assert.ok(error.requestId);
});

for (const ordered of [true, false]) {
  test(`many pictures, ordered: ${ordered}`, async () => {
    const given = [picture, new Uint8Array([1, 2, 3]), picture, picture, picture];
    const found: { index: number; good: boolean }[] = [];
    for await (const { index, answer, error } of new Client(url).segmentMany(given, { concurrency: 2, ordered, labels: ["blob"] })) {
      assert.equal(answer === undefined, error !== undefined);
      found.push({ index, good: answer !== undefined });
    }
    if (!ordered) found.sort((a, b) => a.index - b.index);
    assert.deepEqual(found.map((each) => each.index), [0, 1, 2, 3, 4]);
    assert.deepEqual(found.map((each) => each.good), [true, false, true, true, true]);
  });
}

function scripted(...statuses: number[]): { client: Client; asked: () => number } {
  let asked = 0;
  const answer = async (): Promise<Response> => {
    const status = statuses[Math.min(asked++, statuses.length - 1)]!;
    return new Response(status === 200 ? '{"models": []}' : "{}", { status, headers: { "retry-after": "0" } });
  };
  return { client: new Client("http://x", { fetch: answer }), asked: () => asked };
}

test("refusals are tried again, other errors are not", async () => {
  const refused = scripted(429, 503, 200);
  assert.deepEqual(await refused.client.models(), []);
  assert.equal(refused.asked(), 3);
  for (const [statuses, tries] of [[[500, 200], 1], [[504, 200], 1], [[429], 4]] as [number[], number][]) {
    const { client, asked } = scripted(...statuses);
    await assert.rejects(client.models(), ServiceError);
    assert.equal(asked(), tries);
  }
});
