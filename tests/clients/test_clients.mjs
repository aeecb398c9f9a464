// Clients from the npm registry with a running server, whose address is in HYPURA_URL. Prints TAP. Packages that are not
// installed (npm install in this folder) are skipped.
import assert from "node:assert/strict";
import {runTests} from "./tap.mjs";

const url = process.env.HYPURA_URL;
const model = "manpage-moe-24m-Q4_K_M";
const question = "What does the ls command do?";
const answer = "ls - list directory contents";
const tests = [];
const test = (pack, name, run) => tests.push([`${pack}: ${name}`, async () => {
    try {
        await import(pack);
    } catch {
        return `${pack} is not installed: npm install in tests/clients`;
    }
    await run();
}]);
const weather = {type: "function", function: {name: "get_weather", description: "Weather of a city",
    parameters: {type: "object", properties: {city: {type: "string", maxLength: 12}}, required: ["city"]}}};
const schema = {type: "object", properties: {name: {type: "string", maxLength: 8}, many: {type: "boolean"}},
    required: ["name", "many"], additionalProperties: false};
const long = {type: "string", minLength: 2000};

// ---- ollama

const ollama = async () => new (await import("ollama")).Ollama({host: url});
const greedy = {temperature: 0, num_predict: 24, repeat_penalty: 1};
const messages = [{role: "user", content: question}];

test("ollama", "lists and shows models, and reports running ones", async () => {
    const client = await ollama();
    const {models} = await client.list();
    assert(models.some(m => m.name === model + ":latest" && m.details.family === "qwen3moe"));
    assert((await client.show({model})).capabilities.includes("completion"));
    await client.generate({model, prompt: ""});
    assert.equal((await client.ps()).models.length, 1);
    assert.match((await client.version()).version, /^\d+\.\d+/);
});
test("ollama", "answers whole and streamed", async () => {
    const client = await ollama();
    const whole = await client.chat({model, messages, options: greedy});
    assert(whole.message.content.startsWith(answer));
    let text = "", last;
    for await (const part of await client.chat({model, messages, options: greedy, stream: true})) {
        text += part.message.content;
        last = part;
    }
    assert.equal(text, whole.message.content);
    assert(last.done && last.eval_count === 24);
    const made = await client.generate({model, prompt: question, options: greedy});
    assert(made.response.startsWith(answer) && made.context.length > 24);
});
test("ollama", "structured output, tools, embeddings", async () => {
    const client = await ollama();
    const made = await client.chat({model, messages, format: schema, options: {seed: 1}});
    assert.equal(typeof JSON.parse(made.message.content).many, "boolean");
    const tooled = await client.chat({model, messages, tools: [weather], options: greedy});
    assert.equal(typeof tooled.message.content, "string");
    const {embeddings} = await client.embed({model, input: ["a", "b"]});
    assert(embeddings.length === 2 && embeddings[0].length === 256);
});
test("ollama", "creates, copies and deletes", async () => {
    const client = await ollama();
    await client.create({model: "npm-made", from: model, system: "Be brief.", parameters: {num_predict: 2}});
    await client.copy({source: "npm-made", destination: "npm-copy"});
    assert.equal((await client.chat({model: "npm-copy", messages})).eval_count, 2);
    await client.delete({model: "npm-made"});
    await client.delete({model: "npm-copy"});
    await assert.rejects(client.show({model: "npm-copy"}), /not found/);
});
test("ollama", "aborts, and reports errors", async () => {
    const client = await ollama();
    const stream = await client.chat({model, messages, stream: true, format: long, options: {num_predict: 400}});
    let seen = 0;
    await assert.rejects(async () => {
        for await (const _ of stream)
            if (++seen === 3) client.abort();
    }, {name: "AbortError"});
    await assert.rejects((await ollama()).chat({model: "nothing", messages}), /model 'nothing' not found/);
});

// ---- openai

const openai = async () => new (await import("openai")).default({baseURL: url + "/v1", apiKey: "any", maxRetries: 0});

test("openai", "lists models", async () => {
    const client = await openai();
    const ids = [];
    for await (const one of client.models.list()) ids.push(one.id);
    assert(ids.includes(model));
    assert.equal((await client.models.retrieve(model)).object, "model");
});
test("openai", "chats whole and streamed", async () => {
    const client = await openai();
    const body = {model, messages, temperature: 0, max_tokens: 24};
    const whole = await client.chat.completions.create(body);
    assert(whole.choices[0].message.content.startsWith(answer));
    assert.equal(whole.choices[0].finish_reason, "length");
    assert.equal(whole.usage.completion_tokens, 24);
    const stream = await client.chat.completions.create({...body, stream: true, stream_options: {include_usage: true}});
    let text = "", finish, usage;
    for await (const chunk of stream) {
        text += chunk.choices[0]?.delta?.content ?? "";
        finish ??= chunk.choices[0]?.finish_reason;
        usage ??= chunk.usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert(finish === "length" && usage.total_tokens === whole.usage.total_tokens);
});
test("openai", "several answers, seeds, logprobs", async () => {
    const client = await openai();
    const body = {model, messages, n: 2, seed: 5, max_tokens: 8, logprobs: true, top_logprobs: 2};
    const a = await client.chat.completions.create(body), b = await client.chat.completions.create(body);
    assert.equal(a.choices.length, 2);
    assert.deepEqual(a.choices.map(c => c.message.content), b.choices.map(c => c.message.content));
    assert(a.choices[0].logprobs.content[0].top_logprobs.length === 2);
});
test("openai", "tools that must be called", async () => {
    const client = await openai();
    const body = {model, messages: [{role: "user", content: "Weather in Rome?"}], tools: [weather], max_tokens: 100,
        tool_choice: "required", temperature: 0};
    const whole = await client.chat.completions.create(body);
    const call = whole.choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "get_weather");
    assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    const runner = client.chat.completions.stream({...body, stream: true});
    const final = await runner.finalChatCompletion();
    assert.deepEqual(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), JSON.parse(call.function.arguments));
    const after = await client.chat.completions.create({model, max_tokens: 4, tools: [weather], messages: [
        ...body.messages, whole.choices[0].message, {role: "tool", tool_call_id: call.id, content: "sunny"}]});
    assert.equal(after.object, "chat.completion");
});
test("openai", "structured output", async () => {
    const client = await openai();
    const made = await client.chat.completions.create({model, messages, seed: 1,
        response_format: {type: "json_schema", json_schema: {name: "thing", strict: true, schema}}});
    assert.equal(typeof JSON.parse(made.choices[0].message.content).many, "boolean");
});
test("openai", "completions and embeddings", async () => {
    const client = await openai();
    const made = await client.completions.create({model, prompt: "ls - list", max_tokens: 5, temperature: 0, echo: true});
    assert(made.choices[0].text.startsWith("ls - list "), made.choices[0].text);
    const {data} = await client.embeddings.create({model, input: ["a", "b"]});
    assert(data.length === 2 && data[1].embedding.length === 256 && Number.isFinite(data[1].embedding[0]));
    const floats = await client.embeddings.create({model, input: "b", encoding_format: "float", dimensions: 64});
    assert.equal(floats.data[0].embedding.length, 64);
});
test("openai", "responses, whole and streamed", async () => {
    const client = await openai();
    const body = {model, input: question, temperature: 0, max_output_tokens: 60};
    const whole = await client.responses.create(body);
    assert(whole.output_text.startsWith(answer) && whole.status === "completed");
    let text = "", last;
    for await (const event of await client.responses.create({...body, stream: true})) {
        if (event.type === "response.output_text.delta") text += event.delta;
        last = event;
    }
    assert(text === whole.output_text && last.type === "response.completed");
    const final = await client.responses.stream(body).finalResponse();
    assert.equal(final.output_text, text);
    const {type, function: f} = weather;
    const called = await client.responses.create({model, input: "Weather?", tools: [{type, ...f}], tool_choice: "required",
        max_output_tokens: 100, temperature: 0});
    assert.equal(called.output[0].type, "function_call");
});
test("openai", "aborts, and reports errors", async () => {
    const client = await openai();
    const stream = await client.chat.completions.create({model, messages, stream: true,
        response_format: {type: "json_schema", json_schema: {name: "x", schema: long}}});
    let seen = 0;
    for await (const _ of stream) if (++seen === 3) break;
    const {NotFoundError, BadRequestError} = await import("openai");
    await assert.rejects(client.chat.completions.create({model: "nothing", messages}), NotFoundError);
    await assert.rejects(client.chat.completions.create({model, messages: []}), BadRequestError);
});

// ---- @anthropic-ai/sdk

const anthropic = async () => new (await import("@anthropic-ai/sdk")).default({baseURL: url, apiKey: "any", maxRetries: 0});
const body = {model, messages, max_tokens: 24, temperature: 0};

test("@anthropic-ai/sdk", "messages whole and streamed, and counted", async () => {
    const client = await anthropic();
    const whole = await client.messages.create({...body, system: [{type: "text", text: "Be brief.", cache_control: {type: "ephemeral"}}]});
    assert.equal(whole.stop_reason, "max_tokens");
    const plain = await client.messages.create(body);
    assert(plain.content[0].text.startsWith(answer));
    const stream = client.messages.stream(body);
    let text = "";
    stream.on("text", part => text += part);
    const last = await stream.finalMessage();
    assert.equal(text, plain.content[0].text);
    assert.equal(last.usage.output_tokens, 24);
    assert.equal((await client.messages.countTokens({model, messages})).input_tokens, plain.usage.input_tokens + plain.usage.cache_read_input_tokens);
});
test("@anthropic-ai/sdk", "tools, and errors", async () => {
    const client = await anthropic();
    const tools = [{name: "get_weather", input_schema: weather.function.parameters}];
    const called = await client.messages.create({...body, max_tokens: 100, tools, tool_choice: {type: "tool", name: "get_weather"}});
    const call = called.content.at(-1);
    assert(call.type === "tool_use" && typeof call.input.city === "string" && called.stop_reason === "tool_use");
    const after = await client.messages.create({...body, tools, messages: [...messages, {role: "assistant", content: called.content},
        {role: "user", content: [{type: "tool_result", tool_use_id: call.id, content: "sunny"}]}]});
    const prompt = made => made.usage.input_tokens + made.usage.cache_read_input_tokens;
    assert(prompt(after) > prompt(called));
    const {NotFoundError, BadRequestError} = await import("@anthropic-ai/sdk");
    await assert.rejects(client.messages.create({...body, model: "nothing"}), NotFoundError);
    await assert.rejects(client.messages.create({...body, messages: []}), BadRequestError);
});

// ---- @ai-sdk/openai-compatible

const sdk = async () => {
    const {createOpenAICompatible} = await import("@ai-sdk/openai-compatible");
    return {ai: await import("ai"), provider: createOpenAICompatible({name: "hypura", baseURL: url + "/v1",
        includeUsage: true, supportsStructuredOutputs: true})};
};

test("@ai-sdk/openai-compatible", "text, streams, objects, embeddings", async () => {
    const {ai, provider} = await sdk();
    const whole = await ai.generateText({model: provider(model), prompt: question, temperature: 0, maxOutputTokens: 24});
    assert(whole.text.startsWith(answer) && whole.usage.outputTokens === 24);
    const stream = ai.streamText({model: provider(model), prompt: question, temperature: 0, maxOutputTokens: 24});
    let text = "";
    for await (const part of stream.textStream) text += part;
    assert.equal(text, whole.text);
    const made = await ai.generateObject({model: provider(model), prompt: question, schema: ai.jsonSchema(schema)});
    assert.equal(typeof made.object.many, "boolean");
    const {embedding} = await ai.embed({model: (provider.embeddingModel ?? provider.textEmbeddingModel)(model), value: "a"});
    assert.equal(embedding.length, 256);
});
test("@ai-sdk/openai-compatible", "tools and abort", async () => {
    const {ai, provider} = await sdk();
    const tools = {get_weather: ai.tool({description: "Weather", inputSchema: ai.jsonSchema(weather.function.parameters)})};
    const called = await ai.generateText({model: provider(model), prompt: "Weather?", tools, toolChoice: "required",
        temperature: 0, maxOutputTokens: 100});
    assert.equal(called.toolCalls[0].toolName, "get_weather");
    const stop = AbortSignal.timeout(200);
    await assert.rejects(ai.generateObject({model: provider(model), prompt: "x", abortSignal: stop, maxRetries: 0,
        schema: ai.jsonSchema({type: "object", properties: {a: long}, required: ["a"]})}));
});

// ---- @langchain/ollama

test("@langchain/ollama", "chat, stream, structured output, embeddings", async () => {
    const {ChatOllama, OllamaEmbeddings} = await import("@langchain/ollama");
    const chat = new ChatOllama({baseUrl: url, model, temperature: 0, numPredict: 24, repeatPenalty: 1});
    const whole = await chat.invoke(question);
    assert(whole.content.startsWith(answer));
    let text = "";
    for await (const part of await chat.stream(question)) text += part.content;
    assert.equal(text, whole.content);
    const free = new ChatOllama({baseUrl: url, model, temperature: 0, format: schema});
    assert.equal(typeof JSON.parse((await free.invoke(question)).content).many, "boolean");
    const bound = await chat.bindTools([weather]).invoke("Weather in Rome?");
    assert.equal(typeof bound.content, "string");
    const vectors = await new OllamaEmbeddings({baseUrl: url, model}).embedDocuments(["a", "b"]);
    assert(vectors.length === 2 && vectors[0].length === 256);
});

process.exit(await runTests(tests) ? 1 : 0);
