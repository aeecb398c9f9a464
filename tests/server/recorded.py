"""Requests in the formats that agents and chats document. Each turn repeats the conversation so far, and changes everything that
changes between turns of a session (ids, times, the position of the cache mark).

A client makes the next request from the conversation so far, a list of
    ("user", text)  ("answer", text)  ("call", id, tool, arguments)  ("result", id, text)
"""
import json
import uuid


def rules(count):
    """Makes a text as long as a system prompt, without meaning."""
    return "\n".join(f"- Rule {i}: read what is there before you change it, and keep line {i * 7} as it was." for i in range(count))


TREE = "\n".join(f"src/part{i}/file{i * 3}.c" for i in range(20))
SCHEMA = {"type": "object", "properties": {"path": {"type": "string", "maxLength": 12}}, "required": ["path"],
          "additionalProperties": False}


class ClaudeCode:
    path, tool = "/v1/messages", "Read"

    def __init__(self):
        self.session = uuid.uuid4()

    def text_block(self, text, mark=False):
        return {"type": "text", "text": text, **({"cache_control": {"type": "ephemeral"}} if mark else {})}

    def request(self, said, number):
        messages = []
        for i, (kind, *rest) in enumerate(said):
            last = i == len(said) - 1
            if kind == "user" and i == 0:
                reminder = f"<system-reminder>\nThe project's notes follow.\n{TREE}\n</system-reminder>\n"
                messages.append({"role": "user", "content": [self.text_block(reminder), self.text_block(rest[0], last)]})
            elif kind == "user":  # a plain text unless it carries the mark
                messages.append({"role": "user", "content": [self.text_block(rest[0], True)] if last else rest[0]})
            elif kind == "answer":
                messages.append({"role": "assistant", "content": [self.text_block(rest[0])]})
            elif kind == "call":
                messages.append({"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "I read the file first.", "signature": "c2ln"},
                    {"type": "tool_use", "id": rest[0], "name": rest[1], "input": rest[2]}]})
            else:
                mark = {"cache_control": {"type": "ephemeral"}} if last else {}
                messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": rest[0], "content": rest[1], **mark}]})
        head = f"x-anthropic-billing-header: cc_version=2.1.{37 + number}.{uuid.uuid4().hex[:3]}; cc_entrypoint=cli; cch={uuid.uuid4().hex[:5]};"
        return {"messages": messages, "system": [
                    self.text_block(head), self.text_block("You are a command line agent.", True),
                    self.text_block(f"# Rules\n{rules(25)}\n# Environment\nWorking directory: /home/u/project\nPlatform: linux\n", True)],
                "tools": [{"name": self.tool, "description": "Reads a file.", "input_schema": SCHEMA}],
                "metadata": {"user_id": f"user_0_account__session_{self.session}"}, "max_tokens": 32000, "stream": True,
                "thinking": {"type": "adaptive"}, "temperature": 1,
                "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}


class Codex:
    path, tool = "/v1/responses", "exec_command"

    def __init__(self):
        self.session = str(uuid.uuid4())

    def message(self, role, *texts):
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}

    def request(self, said, number):
        items = [self.message("developer", "<permissions instructions>\nAll commands may run.\n</permissions instructions>"),
                 self.message("user", f"# AGENTS.md instructions for /home/u/project\n\n<INSTRUCTIONS>\n{TREE}\n</INSTRUCTIONS>",
                              "<environment_context>\n  <cwd>/home/u/project</cwd>\n  <shell>bash</shell>\n  "
                              "<current_date>2026-11-22</current_date>\n</environment_context>")]
        for kind, *rest in said:
            if kind in ("user", "answer"):
                items.append(self.message("user" if kind == "user" else "assistant", rest[0]))
            elif kind == "call":
                items += [{"type": "reasoning", "summary": [], "content": None, "encrypted_content": uuid.uuid4().hex},
                          {"type": "function_call", "name": rest[1], "arguments": json.dumps(rest[2]), "call_id": rest[0]}]
            else:
                items.append({"type": "function_call_output", "call_id": rest[0], "output": rest[1]})
        return {"instructions": f"You are a coding agent in a terminal.\n\n{rules(25)}", "input": items, "tools": [
                    {"type": "function", "name": self.tool, "description": "Runs a command.", "strict": False, "parameters": SCHEMA}],
                "tool_choice": "auto", "parallel_tool_calls": True, "reasoning": {"effort": "medium", "summary": "auto"},
                "store": False, "stream": True, "include": ["reasoning.encrypted_content"], "prompt_cache_key": self.session,
                "client_metadata": {"x-codex-turn": str(uuid.uuid4())}}


class OpenCode:
    path, tool = "/v1/chat/completions", "read"
    head = "You are an agent that edits code.\n\n{rules}\n\n<env>\n  Working directory: /home/u/project\n  Platform: linux\n  " \
           "Today's date: Sun Nov 22 2026\n</env>\n<files>\n{tree}\n</files>"

    def content(self, text):
        return text

    def request(self, said, number):
        messages = [{"role": "system", "content": self.head.format(rules=rules(25), tree=TREE)}]
        for kind, *rest in said:
            if kind == "user":
                messages.append({"role": "user", "content": self.content(rest[0])})
            elif kind == "answer":
                messages.append({"role": "assistant", "content": rest[0]})
            elif kind == "call":
                messages.append({"role": "assistant", "content": "", "tool_calls": [
                    {"id": rest[0], "type": "function", "function": {"name": rest[1], "arguments": json.dumps(rest[2])}}]})
            else:
                messages.append({"role": "tool", "tool_call_id": rest[0], "content": rest[1]})
        return {"messages": messages, "tools": [{"type": "function", "function": {
                    "name": self.tool, "description": "Reads a file.", "parameters": SCHEMA}}], "tool_choice": "auto",
                "max_tokens": 32000, "stream": True, "stream_options": {"include_usage": True}}

    def aside(self, said):
        """Returns a request that the client sends between two turns, with an unrelated prompt."""
        return {"messages": [{"role": "system", "content": "You are a title generator. Write one line.\n" + rules(5)},
                             {"role": "user", "content": "Generate a title for this conversation:\n"},
                             {"role": "user", "content": said[0][1]}], "max_tokens": 8}


class Continue(OpenCode):
    tool = "read_file"
    head = "<important_rules>\nYou are in agent mode.\n{rules}\n{tree}\n</important_rules>"
    aside = None

    def content(self, text):
        return [{"type": "text", "text": text}]


class Cline:
    """Its tools are described by text."""
    path, tool = "/v1/chat/completions", None

    def request(self, said, number):
        messages = [{"role": "system", "content": f"You are a software engineer.\n\nTOOL USE\n\n{rules(25)}\n\n====\n\nSYSTEM "
                                                  "INFORMATION\n\nOperating System: Linux\n"}]
        for i, (kind, text) in enumerate(said):
            details = f"<environment_details>\n# Visible Files\n{TREE}\n\n# Current Time\n11/22/2026, 8:{i + 10}:05 PM (UTC, UTC+0:00)\n\n" \
                      f"# Context Window Usage\n{i * 1307} / 128K tokens used ({i}%)\n\n# Current Mode\nACT MODE\n</environment_details>"
            asked = f"<task>\n{text}\n</task>" if i == 0 else f"[read_file for 'notes.txt'] Result:\n\n{text}"
            messages.append({"role": "assistant", "content": text} if kind == "answer" else
                            {"role": "user", "content": [{"type": "text", "text": asked}, {"type": "text", "text": details}]})
        return {"messages": messages, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0}


class OpenWebUI:
    path, tool = "/api/chat", None

    def request(self, said, number):
        messages = [{"role": "system", "content": f"You help with a project.\n{rules(25)}"}]
        messages += [{"role": "user" if kind == "user" else "assistant", "content": text} for kind, text in said]
        return {"messages": messages, "stream": True, "options": {"temperature": 0.7, "num_ctx": 16384}, "keep_alive": "5m"}

    def aside(self, said):
        history = "\n".join(f"{'USER' if kind == 'user' else 'ASSISTANT'}: {text}" for kind, text in said)
        return {"messages": [{"role": "user", "content": f"### Task:\nGenerate a title of three to five words.\n{rules(5)}\n"
                                                         f"<chat_history>\n{history}\n</chat_history>"}],
                "stream": False, "options": {"num_predict": 8}}


ALL = {"Claude Code": ClaudeCode, "Codex": Codex, "opencode": OpenCode, "Cline": Cline, "Continue": Continue, "Open WebUI": OpenWebUI}
