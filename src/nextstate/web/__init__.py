"""The models behind an address: an ASGI application, and the page that talks to it."""
