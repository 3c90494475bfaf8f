// Talks to the service. Every path is relative, so that the page works behind a proxy's prefix.

const KEY = "proscale-api-key";

/** A failure in the service's own words. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key),
};

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(apiKey.get() ? { "x-api-key": apiKey.get() } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem(0, "The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const wait = response.headers.get("retry-after");
  const detail = problem.detail ?? `The server answered ${response.status}.`;
  throw new Problem(response.status, wait ? `${detail} Try again in ${wait} s.` : detail);
}

const query = (parameters) => new URLSearchParams(parameters).toString();

export const models = async () => (await call("models")).json();

export const segment = async (picture, parameters) =>
  (await call(`segment?${query(parameters)}`, { method: "POST", body: picture, headers: { "content-type": "application/octet-stream" } })).json();

/** The answer in another format: its bytes and a file name. */
export async function file(picture, parameters) {
  const response = await call(`segment?${query(parameters)}`, {
    method: "POST",
    body: picture,
    headers: { "content-type": "application/octet-stream" },
  });
  const name = /filename\*=UTF-8''(.+)$/.exec(response.headers.get("content-disposition") ?? "")?.[1] ?? "answer.json";
  return { blob: await response.blob(), name: decodeURIComponent(name) };
}

/** One of the pictures that come with the page. */
export const sample = async (name) => (await call(`page/samples/${name}`)).blob();

/** The picture as the service sees it, for kinds that the browser cannot show, such as TIFF. */
export const shown = async (picture) =>
  (await file(picture, { format: "overlay_webp", opacity: 0, outlines: false, names: false, max_segments: 1 })).blob;
