"""WebSocket client and server for policy servers."""
