// openai for Node: chat completions, helpers for streams and tools, the Responses API.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({
  baseURL: `${process.env.LLAVA_TEST_URL}/v1`,
  apiKey: "unused",
  maxRetries: 0,
});
const png = readFileSync(process.env.LLAVA_TEST_PICTURE).toString("base64");
const url = `data:image/png;base64,${png}`;
const text = "What colour is the circle?";
const messages = [
  { role: "user", content: [{ type: "image_url", image_url: { url } }, { type: "text", text }] },
];
const input = [
  {
    role: "user",
    content: [
      { type: "input_image", image_url: url, detail: "auto" },
      { type: "input_text", text },
    ],
  },
];
const Report = z.object({ colour: z.enum(["red", "green", "blue"]) });
const parameters = {
  type: "object",
  properties: { colour: { type: "string", enum: ["red", "green", "blue"] } },
  required: ["colour"],
  additionalProperties: false,
};
const options = { model: "demo", temperature: 0, max_tokens: 200 };

test("chat completion", async () => {
  const answer = await client.chat.completions.create({ ...options, messages });
  assert.match(answer.choices[0].message.content, /red/);
  assert.ok(answer.usage.prompt_tokens > 64);
});

test("stream, by hand and by its helper", async () => {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({
    ...options,
    messages,
    stream: true,
  })) {
    chunks.push(chunk.choices[0]?.delta?.content ?? "");
  }
  assert.match(chunks.join(""), /red/);
  const runner = client.chat.completions.stream({ ...options, messages });
  assert.equal(await runner.finalContent(), chunks.join(""));
});

test("structured output", async () => {
  const answer = await client.chat.completions.parse({
    ...options,
    messages,
    response_format: zodResponseFormat(Report, "report"),
  });
  assert.equal(answer.choices[0].message.parsed.colour, "red");
});

test("runTools, whole and streamed", async () => {
  for (const stream of [false, true]) {
    const seen = [];
    const runner = client.chat.completions.runTools(
      {
        ...options,
        stream,
        messages,
        parallel_tool_calls: false,
        tool_choice: { type: "function", function: { name: "report" } },
        tools: [
          {
            type: "function",
            function: {
              name: "report",
              parameters,
              parse: JSON.parse,
              function: (given) => {
                seen.push(given.colour);
                return "noted";
              },
            },
          },
        ],
      },
      { maxChatCompletions: 1 },
    );
    await runner.done();
    assert.equal(seen.length, 1);
    assert.ok(["red", "green", "blue"].includes(seen[0]));
  }
});

test("responses, whole, continued, parsed and streamed", async () => {
  const first = await client.responses.create({ model: "demo", input, temperature: 0 });
  assert.match(first.output_text, /red/);
  const second = await client.responses.create({
    model: "demo",
    input: text,
    previous_response_id: first.id,
    temperature: 0,
  });
  assert.match(second.output_text, /red/);
  const parsed = await client.responses.parse({
    model: "demo",
    input,
    temperature: 0,
    text: { format: zodTextFormat(Report, "report") },
  });
  assert.equal(parsed.output_parsed.colour, "red");
  const stream = client.responses.stream({ model: "demo", input, temperature: 0 });
  const final = await stream.finalResponse();
  assert.equal(final.output_text, first.output_text);
});

test("errors", async () => {
  await assert.rejects(
    client.chat.completions.create({ ...options, messages, temperature: 9 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
});
