"""How does an encoded image become pixels?"""
