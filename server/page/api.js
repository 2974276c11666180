// Requests to the server that this page came from: the key, errors, streams.

let key = sessionStorage.getItem("llava-key") ?? "";

/** What the server answered with an error status, in its own words. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask for a key in the dialog. Resolves once one was given; it is kept in this tab alone. */
function askForKey() {
  const dialog = document.getElementById("ask-key");
  const field = document.getElementById("key");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      key = field.value.trim();
      field.value = "";
      sessionStorage.setItem("llava-key", key);
      resolve();
    }, { once: true });
    dialog.showModal();
  });
}

async function failure(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message ?? message;
  } catch {
    // Not JSON: a proxy's answer, say. The status is all there is to show.
  }
  return new ApiError(response.status, message);
}

/** Fetch a path of this server. Raises ApiError for an error status. */
export async function request(path, body, signal) {
  for (;;) {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const options = { headers, signal };
    if (body !== undefined) {
      options.method = "POST";
      options.body = JSON.stringify(body);
      headers["content-type"] = "application/json";
    }
    const response = await fetch(path, options);
    if (response.ok) return response;
    if (response.status !== 401) throw await failure(response);
    await askForKey();
  }
}

/** The JSON objects of a stream of server-sent events, one by one, until [DONE]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      // Comments keep the connection alive and carry nothing.
      if (!block.startsWith("data: ")) continue;
      const data = block.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(500, event.error.message);
      yield event;
    }
  }
}
