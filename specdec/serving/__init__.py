"""Requests of many clients, decoded together, and an HTTP server in OpenAI's terms."""
