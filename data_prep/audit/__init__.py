"""The audit passes over a corpus folder once, and its findings say what to do."""
