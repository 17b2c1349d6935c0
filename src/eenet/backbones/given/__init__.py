"""Networks and weights of a user's own: functions that make them, files that hold them, modules in memory."""
