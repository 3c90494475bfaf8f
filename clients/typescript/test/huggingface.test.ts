// Hugging Face's own client against the service's /hf: the image-segmentation task.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { InferenceClient } from "@huggingface/inference";

const endpointUrl = `${process.env.SERVICE_URL!}/hf`;
const picture = new Blob([readFileSync(process.env.PICTURE!)], { type: "image/png" });

test("imageSegmentation", async () => {
  const found = await new InferenceClient("").imageSegmentation({ endpointUrl, inputs: picture, parameters: { subtask: "instance", threshold: 0.1 } });
  assert.deepEqual(found.map((each) => each.label).sort(), JSON.parse(process.env.LABELS!));
  for (const each of found) {
    assert.ok(each.score! > 0 && each.score! <= 1);
    assert.deepEqual([...Buffer.from(each.mask, "base64").subarray(1, 4)], [...Buffer.from("PNG")]);
  }
});

test("what is wrong is told", async () => {
  await assert.rejects(
    new InferenceClient("").imageSegmentation({ endpointUrl, inputs: new Blob(["no picture"]), parameters: { threshold: 0.5 } }),
    /not a picture|request|error/i,
  );
});
