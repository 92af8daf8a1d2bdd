"""Encoders turn sentences, sound and pictures into features. They may use torch, PyAV, OpenCV and openSMILE."""
