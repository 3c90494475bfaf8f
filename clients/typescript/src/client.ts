// The client: pictures in, segments with their masks out. It needs fetch alone, so that it runs in Node, Deno, Bun and browsers.
import { decodeMask } from "./rle.js";
import type { components, operations } from "./schema.js";

export type SegmentResponse = components["schemas"]["SegmentResponse"];
export type Segment = components["schemas"]["Segment"];
export type ServedModel = components["schemas"]["ServedModel"];
export type Problem = components["schemas"]["Problem"];
type Query<Name extends keyof operations> = NonNullable<operations[Name]["parameters"]["query"]>;
/** Parameters of POST /segment. */
export type SegmentOptions = Omit<Query<"segment">, "format">;
export type FileOptions = SegmentOptions & { format: NonNullable<Query<"segment">["format"]> };

/** A picture's file. */
export type Picture = Blob | ArrayBuffer | Uint8Array;

export interface ClientOptions {
  apiKey?: string;
  /** How often a request is sent at most: 429, 503 and servers out of reach alone are tried again, since nothing was computed. */
  attempts?: number;
  /** A `Retry-After` of more seconds is not waited for. */
  longestWaitS?: number;
  fetch?: typeof fetch;
}

/** What the service said was wrong. */
export class ServiceError extends Error {
  override readonly name = "ServiceError";
  constructor(
    readonly status: number,
    /** Such as `invalid-parameter`. */
    readonly reason: string,
    detail: string,
    readonly requestId?: string,
    readonly retryAfterS?: number,
  ) {
    super(detail);
  }
}

/** What came of one picture of many: an answer or an error. */
export interface Outcome<P> {
  index: number;
  picture: P;
  answer?: SegmentResponse;
  error?: unknown;
}

export class Client {
  readonly #url: string;
  readonly #headers: Record<string, string>;
  readonly #attempts: number;
  readonly #longestWaitS: number;
  readonly #fetch: typeof fetch;

  /** `url`: of the service, such as http://127.0.0.1:8000. */
  constructor(url: string, options: ClientOptions = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#headers = options.apiKey === undefined ? {} : { authorization: `Bearer ${options.apiKey}` };
    this.#attempts = options.attempts ?? 4;
    this.#longestWaitS = options.longestWaitS ?? 30;
    this.#fetch = options.fetch ?? ((...asked) => fetch(...asked));
  }

  /** Segments of a picture, as JSON with COCO RLE. Throws ServiceError. */
  async segment(picture: Picture, options: SegmentOptions = {}, signal?: AbortSignal): Promise<SegmentResponse> {
    return (await (await this.#picture(picture, options, signal)).json()) as SegmentResponse;
  }

  /** A picture's segments in another format; several come as one ZIP archive. Throws ServiceError. */
  async file(picture: Picture, options: FileOptions, signal?: AbortSignal): Promise<Blob> {
    return (await this.#picture(picture, options, signal)).blob();
  }

  /** Many pictures, several at a time; outcomes come as they are done, or in order. Leaving the loop sends nothing further. */
  async *segmentMany<P extends Picture>(
    pictures: Iterable<P> | AsyncIterable<P>,
    { concurrency = 4, ordered = true, ...options }: SegmentOptions & { concurrency?: number; ordered?: boolean } = {},
  ): AsyncGenerator<Outcome<P>> {
    if (!(concurrency >= 1)) throw new RangeError(`concurrency: must be 1 or more (it is ${concurrency})`);
    const left = new AbortController();
    const running = new Map<number, Promise<Outcome<P>>>();
    const one = async (index: number, picture: P): Promise<Outcome<P>> => {
      try {
        return { index, picture, answer: await this.segment(picture, options, left.signal) };
      } catch (error) {
        return { index, picture, error };
      }
    };
    const next = async (): Promise<Outcome<P>> => {
      const first = running.values().next().value as Promise<Outcome<P>>;
      const outcome = await (ordered ? first : Promise.race(running.values()));
      running.delete(outcome.index);
      return outcome;
    };
    try {
      let index = 0;
      for await (const picture of pictures) {
        running.set(index, one(index, picture));
        index++;
        if (running.size >= concurrency) yield await next();
      }
      while (running.size > 0) yield await next();
    } finally {
      left.abort();
    }
  }

  /** The served models with their labels. */
  async models(): Promise<ServedModel[]> {
    const answer = await this.#ask("/models", { method: "GET" });
    return ((await answer.json()) as { models: ServedModel[] }).models;
  }

  /** Whether the service can be reached and takes requests now. */
  async ready(): Promise<boolean> {
    try {
      return (await this.#fetch(`${this.#url}/health/ready`)).ok;
    } catch {
      return false;
    }
  }

  #picture(picture: Picture, options: object, signal?: AbortSignal): Promise<Response> {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options)) {
      for (const each of [value].flat()) if (each !== undefined && each !== null) query.append(name, String(each));
    }
    const headers = { "content-type": "application/octet-stream" };
    return this.#ask(`/segment?${query}`, { method: "POST", body: picture as BodyInit, headers, ...(signal ? { signal } : {}) });
  }

  async #ask(path: string, request: RequestInit): Promise<Response> {
    for (let attempt = 1; ; attempt++) {
      const last = attempt >= this.#attempts;
      let seconds = 0.5 * 2 ** (attempt - 1);
      try {
        const answer = await this.#fetch(this.#url + path, { ...request, headers: { ...this.#headers, ...(request.headers as object) } });
        if (answer.ok) return answer;
        const error = await problemOf(answer);
        const refused = answer.status === 429 || answer.status === 503;
        seconds = error.retryAfterS ?? seconds;
        if (!refused || last || seconds > this.#longestWaitS) throw error;
      } catch (error) {
        if (error instanceof ServiceError || last || !isOutOfReach(error)) throw error;
      }
      await sleep(seconds * (1 + Math.random() / 4), request.signal ?? undefined);
    }
  }
}

/** A segment's mask, row by row: 1 inside, 0 outside. */
export const maskOf = (segment: Segment): Uint8Array => decodeMask(segment.segmentation);

async function problemOf(answer: Response): Promise<ServiceError> {
  const problem = (await answer.json().catch(() => ({}))) as Partial<Problem>;
  const after = answer.headers.get("retry-after") ?? "";
  const reason = (problem.type ?? "").replace("urn:proscale:problem:", "");
  const detail = problem.detail ?? `HTTP status ${answer.status}`;
  return new ServiceError(answer.status, reason, detail, problem.request_id, /^\d+$/.test(after) ? Number(after) : undefined);
}

/** Whether a connection was refused, so that no server saw the request. What a browser hides counts as seen. */
function isOutOfReach(error: unknown): boolean {
  const cause = (error as { cause?: { code?: string } }).cause;
  return error instanceof TypeError && ["ECONNREFUSED", "UND_ERR_CONNECT_TIMEOUT", "ENOTFOUND"].includes(cause?.code ?? "");
}

function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    });
  });
}
