"""Audits of private training: statistical checks, independent numbers, and a membership test."""
