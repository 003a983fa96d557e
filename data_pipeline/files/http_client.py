"""An HTTP client for servers that nobody vouches for: answers are bounded, uncompressed, and from the host asked."""

from typing import Any

MAX_ANSWER_BYTES = 64 << 20
"""Of an answer that is held in memory: an index, or a listing. Half a million shards need so much."""


class RefusedError(OSError):
    """An answer that is not taken; asking again would not help."""


def client_options() -> dict[str, Any]:
    """Arguments of aiohttp's session, which fsspec makes.

    Compressed answers are neither asked for nor decompressed: a few kilobytes can become gigabytes.
    """
    import aiohttp
    from yarl import URL

    class BoundedResponse(aiohttp.ClientResponse):
        """Refuses a body that is too large while it arrives, whatever the headers announced."""

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

    async def check_redirect(_session: object, _context: object, told: aiohttp.TraceRequestRedirectParams) -> None:
        location = told.response.headers.get("Location") or told.response.headers.get("URI") or ""
        target = told.url.join(URL(location))
        if not is_same_server(told.url, target):
            told.response.close()
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
