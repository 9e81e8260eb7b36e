"""docker-compose.yml as plain processes of this machine."""
