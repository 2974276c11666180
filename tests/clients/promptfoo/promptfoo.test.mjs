// promptfoo's providers, as an evaluation calls them. Its database needs a compiler, so the
// command itself is not run.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import promptfoo from "promptfoo";

const png = readFileSync(process.env.LLAVA_TEST_PICTURE).toString("base64");
const url = `data:image/png;base64,${png}`;
const text = "What colour is the circle?";

async function ask(provider, content) {
  const config = { apiBaseUrl: `${process.env.LLAVA_TEST_URL}/v1`, apiKey: "unused" };
  const loaded = await promptfoo.loadApiProvider(provider, { options: { config } });
  const answer = await loaded.callApi(JSON.stringify([{ role: "user", content }]));
  assert.equal(answer.error, undefined);
  return answer;
}

test("openai:chat", async () => {
  const answer = await ask("openai:chat:demo", [
    { type: "image_url", image_url: { url } },
    { type: "text", text },
  ]);
  assert.match(answer.output, /red/i);
  assert.ok(answer.tokenUsage.completion > 0);
});

test("openai:responses", async () => {
  const answer = await ask("openai:responses:demo", [
    { type: "input_image", image_url: url, detail: "auto" },
    { type: "input_text", text },
  ]);
  assert.match(answer.output, /red/i);
});
