"""How is a trained network used? Features, similarities and captions, from Python and by commands."""
