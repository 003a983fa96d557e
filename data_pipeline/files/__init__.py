"""How are files read and written, locally and at URLs, if the disk or the network fails?"""
