"""The use that weights in Microsoft's format are exact for.

That format has a vision branch (A) and a language branch (B) in every layer and no vision-language expert. Where the
network has vision-language experts, the role decides what stands in the branches of the top layers:

    fusion         the vision-language expert in both branches: image-text pairs
    dual           the vision and the language expert: images alone, texts alone
    vision, text   the same weights as dual, verified for images alone, for texts alone
"""

from typing import Literal

Role = Literal["fusion", "dual", "vision", "text"]
