"""An HTTP client for untrusted servers: responses are bounded, uncompressed, and from the host that was asked."""

from typing import Any

MAX_ANSWER_BYTES = 64 << 20
"""Maximum size of a response that is held in memory, an index or a listing: enough for half a million shards."""


class RefusedError(OSError):
    """A response that is refused; a retry would not help."""


def client_options() -> dict[str, Any]:
    """Return the arguments for the aiohttp session that fsspec opens.

    Compressed responses are neither requested nor decompressed: a few kilobytes can become gigabytes.
    """
    import aiohttp
    from yarl import URL

    class BoundedResponse(aiohttp.ClientResponse):
        """Refuses a body as soon as it is too large, whatever its headers announced."""

        async def read(self) -> bytes:
            if self._body is None:
                self._body = await self._read_bounded()
            return self._body

        async def _read_bounded(self) -> bytes:
            encoding = self.headers.get("Content-Encoding", "identity")
            content = bytearray()
            try:
                if encoding != "identity":
                    raise RefusedError(f"the server sends it with Content-Encoding {encoding[:20]!r}, unasked")
                async for chunk in self.content.iter_any():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise RefusedError(f"the server sends more than {MAX_ANSWER_BYTES} bytes")
            except BaseException:
                self.close()
                raise
            return bytes(content)

    async def check_redirect(_session: object, _context: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        location = redirect.response.headers.get("Location") or redirect.response.headers.get("URI") or ""
        target = redirect.url.join(URL(location))
        if not is_same_server(redirect.url, target):
            redirect.response.close()
            raise RefusedError(f"the server redirects to {target.scheme}://{target.host}, another one; give its URL")

    def is_same_server(asked: URL, target: URL) -> bool:
        origins = [(url.scheme, url.host, url.port) for url in (asked, target)]
        is_upgraded = origins == [("http", asked.host, 80), ("https", asked.host, 443)]
        return origins[0] == origins[1] or is_upgraded

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check_redirect)
    return {
        "response_class": BoundedResponse,
        "trace_configs": [trace],
        "auto_decompress": False,
        "headers": {"Accept-Encoding": "identity"},
    }
