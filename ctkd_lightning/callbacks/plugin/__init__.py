"""The plug-in's parts: attach, watch calls, pick scores, optimize, undo."""
