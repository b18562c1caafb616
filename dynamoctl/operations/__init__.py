"""The commands' work, without their input and output."""
