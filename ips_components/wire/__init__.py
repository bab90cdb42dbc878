"""What both ends speak: messages, frames, connection states and the contact file."""
