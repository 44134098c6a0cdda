"""Serve: HTTP and MCP access to a memory."""
