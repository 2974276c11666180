// Vercel's AI SDK: its OpenAI-compatible provider, and its OpenAI provider on the Responses API.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.env.LLAVA_TEST_URL}/v1`;
const compatible = createOpenAICompatible({
  name: "llava",
  baseURL,
  apiKey: "unused",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const image = readFileSync(process.env.LLAVA_TEST_PICTURE);
const messages = [
  {
    role: "user",
    content: [
      { type: "image", image, mediaType: "image/png" },
      { type: "text", text: "What colour is the circle?" },
    ],
  },
];
const schema = z.object({ colour: z.enum(["red", "green", "blue"]) });
const tools = { report: tool({ description: "Report the colour.", inputSchema: schema }) };

for (const [name, model] of [
  ["openai-compatible", compatible("demo")],
  ["openai responses", openai.responses("demo")],
  ["openai chat", openai.chat("demo")],
]) {
  const options = { model, messages, temperature: 0, maxOutputTokens: 200, maxRetries: 0 };

  test(`${name}: text`, async () => {
    const answer = await generateText(options);
    assert.match(answer.text, /red/);
    assert.ok(answer.usage.inputTokens > 64);
  });

  test(`${name}: stream`, async () => {
    const stream = streamText(options);
    const parts = [];
    for await (const part of stream.textStream) parts.push(part);
    assert.match(parts.join(""), /red/);
    assert.ok((await stream.usage).outputTokens > 0);
  });

  test(`${name}: tools`, async () => {
    const answer = await generateText({ ...options, tools, toolChoice: "required" });
    schema.parse(answer.toolCalls[0].input);
    const stream = streamText({ ...options, tools, toolChoice: "required" });
    schema.parse((await stream.toolCalls)[0].input);
  });

  test(`${name}: structured output`, async () => {
    const answer = await generateText({ ...options, output: Output.object({ schema }) });
    schema.parse(answer.output);
  });
}
