"""Objectives about learnt, individual or scheduled temperatures."""
