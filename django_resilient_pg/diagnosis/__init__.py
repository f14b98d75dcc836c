"""Why connections die here and what to change: judged from the objects the engine acts on."""
