// Asks a live service through the types that openapi-typescript made. Arguments: the service's URL, a picture. Prints what it was answered.
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Problem = components["schemas"]["Problem"];

const [url, path] = process.argv.slice(2);
if (url === undefined || path === undefined) throw new Error("usage: client.js URL PICTURE");
const client = createClient<paths>({ baseUrl: url });
const picture = readFileSync(path);

// Of a file the types say `string`; what a form and a body take is a Blob.
const file = new Blob([picture], { type: "image/png" }) as unknown as string;

function toForm(values: object | string): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(values)) {
    for (const each of [value].flat()) form.append(name, each instanceof Blob ? each : String(each));
  }
  return form;
}

// Answers in other formats than JSON are files, whose type is `string`. openapi-fetch makes an array of a tuple of four numbers.
function boxes(answer: { segments?: { bbox: number[] }[] } | string | undefined): number[][] {
  if (typeof answer !== "object") throw new Error(`no JSON answer: ${answer}`);
  return (answer.segments ?? []).map((segment) => segment.bbox);
}

const models = await client.GET("/models");
const planned = await client.GET("/segment/plan", { params: { query: { width: 70, height: 50, task: ["panoptic", "instance"] } } });
const asForm = await client.POST("/segment", { body: { image: file, threshold: 0.1, labels: ["blob"] }, bodySerializer: toForm });
const asJson = await client.POST("/segment", { body: { image: { base64: picture.toString("base64") }, labels: ["blob"] } });
const asBytes = await client.POST("/segment", {
  params: { query: { labels: ["blob"], max_segments: 1 } },
  body: file,
  bodySerializer: (body) => body,
  headers: { "content-type": "image/png" },
});
const batch = await client.POST("/segment/batch", { body: { image: [file, file], labels: ["blob"] }, bodySerializer: toForm });
const refused = await client.POST("/segment", { body: { image: { base64: picture.toString("base64") }, threshold: 7 } });
const ready = await client.GET("/health/ready");
const problem: Problem | undefined = refused.error;

console.log(
  JSON.stringify({
    models: models.data?.models.map((model) => model.name),
    planned: planned.data?.image,
    form: boxes(asForm.data),
    json: boxes(asJson.data),
    bytes: boxes(asBytes.data),
    batch: batch.data?.items.map((item) => boxes(item.result)),
    refused: problem?.status,
    detail: problem?.detail,
    ready: ready.data?.status,
  }),
);
