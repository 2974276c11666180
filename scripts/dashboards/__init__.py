"""Grafana's dashboards, made with Grafana's own SDK: ``python -m scripts.dashboards``."""
