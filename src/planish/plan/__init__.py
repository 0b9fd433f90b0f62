"""From choices to addresses: schedule, memory, verification, and the plan's text forms."""
