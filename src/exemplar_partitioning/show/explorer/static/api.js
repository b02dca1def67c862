// JSON from the server; its messages as errors.

const PAGE = crypto.randomUUID();

export async function get(path, params = {}) {
  const query = new URLSearchParams(params).toString();
  return answer(await reach(`/api/${path}${query && `?${query}`}`));
}

// An answer that may take long: asked for until it is there; meanwhile, `waiting` is told the seconds since it began, and
// how much is done. Where it returns false, nothing more is asked, and there is no answer.
export async function patiently(path, params, waiting) {
  for (;;) {
    const said = await get(path, params);
    if (said.computing === undefined) return said;
    if (waiting(said.computing, said.share) === false) return null;
  }
}

export async function post(path, body) {
  const headers = { "content-type": "application/json", "x-page": PAGE }; // a newer question calls off the one before
  return answer(await reach(`/api/${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    throw new Error("The server does not answer. Is `ep explore` still running?");
  }
}

async function answer(response) {
  const type = response.headers.get("content-type") ?? "";
  const said = type.startsWith("application/json") ? await response.json() : { error: `The server failed (${response.status}).` };
  if (!response.ok) throw new Error(said.error);
  return said;
}

const part = encodeURIComponent;
export const api = (key, rest = "") => `dictionaries/${part(key)}${rest}`;
export const page = (key, rest = "") => `/d/${part(key)}${rest}`;
export const regionPage = (key, region) => page(key, `/regions/${region}`);
