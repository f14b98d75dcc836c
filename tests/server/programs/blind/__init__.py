"""An engine that reconnects and runs the statement again, whatever it was: what not to do."""
