// Claude Code on the Messages API and Codex CLI on the Responses API, as they are installed, but for
// shorter instructions and fewer tools: the demo model's context holds 8192 tokens.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";

const url = process.env.LLAVA_TEST_URL;
const claude = resolve("node_modules/@anthropic-ai/claude-code/cli-wrapper.cjs");
const codex = resolve("node_modules/@openai/codex/bin/codex.js");

function run(script, args, env) {
  const folder = mkdtempSync(join(tmpdir(), "llava-agent-"));
  const instructions = join(folder, "instructions.md");
  writeFileSync(instructions, "Be brief.");
  const config = [
    'model = "demo"',
    'model_provider = "llava"',
    `model_instructions_file = ${JSON.stringify(instructions)}`,
    "[model_providers.llava]",
    'name = "llava"',
    `base_url = "${url}/v1"`,
    'wire_api = "responses"',
    "request_max_retries = 0",
    "stream_max_retries = 0",
  ];
  writeFileSync(join(folder, "config.toml"), config.join("\n"));
  const own = { HOME: folder, CODEX_HOME: folder, ...env };
  const options = { cwd: folder, encoding: "utf8", env: { ...process.env, ...own }, timeout: 120000 };
  return spawnSync("node", [script, ...args], { ...options, input: "" });
}

function ask(prompt, ...args) {
  const env = {
    ANTHROPIC_BASE_URL: url,
    ANTHROPIC_AUTH_TOKEN: "unused",
    ANTHROPIC_API_KEY: "",
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
  };
  return run(claude, ["-p", prompt, "--model", "demo", "--output-format", "json", ...args], env);
}

test("Claude Code: an answer, with a tool", () => {
  const done = ask("Say hi", "--tools", "Read", "--system-prompt", "Be brief.");
  const answer = JSON.parse(done.stdout);
  assert.equal(answer.is_error, false, done.stdout);
  assert.ok(answer.result.length > 0);
  assert.ok(answer.usage.output_tokens > 0);
});

test("Claude Code: a prompt that is too long is understood", () => {
  const answer = JSON.parse(ask("word ".repeat(9000), "--tools", "").stdout);
  assert.equal(answer.is_error, true);
  assert.match(answer.result, /prompt is too long/i);
});

test("Codex: an answer about a picture", () => {
  const few = ["goals", "multi_agent", "unified_exec"].flatMap((name) => ["--disable", name]);
  const picture = ["-i", process.env.LLAVA_TEST_PICTURE];
  const asked = ["--json", ...few, ...picture, "--", "What is there?"];
  const done = run(codex, ["exec", "--skip-git-repo-check", ...asked]);
  const events = done.stdout.trim().split("\n").map((line) => JSON.parse(line));
  const said = events.find((event) => event.item?.type === "agent_message");
  assert.ok(said?.item.text, done.stdout + done.stderr);
});

test("Codex: with all of its tools the prompt is too long, and it says so", () => {
  const done = run(codex, ["exec", "--skip-git-repo-check", "--json", "word ".repeat(9000)]);
  assert.match(done.stdout + done.stderr, /ran out of room/);
});
