"""How is a BEiT-3 computed in a program that has transformers, but not Imglish? `convert --to transformers` copies the
other files of this folder beside the weights."""
