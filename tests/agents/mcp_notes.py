#!/usr/bin/env python3
"""An MCP server with one tool, which reads the file that the command line names: mcp_notes.py FILE"""
import json
import sys

TOOL = {"name": "read_notes", "description": "Reads the notes.", "inputSchema": {
    "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": False, "properties": {
        "lines": {"type": "integer", "minimum": 1, "maximum": 9007199254740991},
        "marks": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}}}}}

for line in sys.stdin:
    request = json.loads(line)
    method, result = request.get("method"), {}
    if method == "initialize":
        result = {"protocolVersion": request["params"]["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "notes", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [TOOL]}
    elif method == "tools/call":
        with open(sys.argv[1]) as file:
            result = {"content": [{"type": "text", "text": file.read()}]}
    if "id" in request:
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
