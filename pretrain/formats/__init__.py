"""How do others store these weights? Names, shapes and files of Microsoft, timm and BEiT v2."""
