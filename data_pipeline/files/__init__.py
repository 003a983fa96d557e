"""How are files read and written, here and at a URL, if the file system or the network fails?"""
