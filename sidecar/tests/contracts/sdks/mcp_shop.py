"""A shop as an MCP server of the official SDK for Python.

    mcp_shop.py MODULES DATABASE

Prints its port. Each call of a tool adds a row to the database: the shop itself never looks whether the row is
there already.
"""

import asyncio
import socket
import sqlite3
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

DATABASE = sys.argv[2]
TABLES = """
    CREATE TABLE IF NOT EXISTS checkouts (number INTEGER PRIMARY KEY, purchase TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, purchase TEXT NOT NULL, checkout INTEGER NOT NULL);
"""

shop = MCPServer("shop", log_level="WARNING")


def database():
    connection = sqlite3.connect(DATABASE, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def add(insert, *values):
    connection = database()
    try:
        with connection:
            return connection.execute(insert, values).lastrowid
    finally:
        connection.close()


@shop.tool()
async def create_checkout(purchase: str, checkout: dict, meta: dict, context: Context) -> dict[str, Any]:
    """Creates a checkout of one item."""
    await context.report_progress(1, message="in stock")
    number = add("INSERT INTO checkouts (purchase) VALUES (?)", purchase)
    return {"checkout": {"id": number, "status": "ready_for_complete"}}


@shop.tool()
async def complete_checkout(purchase: str, id: int, checkout: dict, meta: dict) -> dict[str, Any]:
    """Pays a checkout and places its order."""
    order = add("INSERT INTO orders (purchase, checkout) VALUES (?, ?)", purchase, id)
    return {"checkout": {"id": id, "status": "completed", "order": {"id": order}}}


@shop.tool()
async def get_order(purchase: str, meta: dict) -> dict[str, Any]:
    """Looks for the order of a purchase."""
    connection = database()
    try:
        found = connection.execute("SELECT number FROM orders WHERE purchase = ?", (purchase,)).fetchone()
    finally:
        connection.close()
    return {"order": {"id": found[0]} if found else None}


async def main():
    connection = database()
    connection.executescript(TABLES)
    connection.close()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(shop.streamable_http_app(stateless_http=True), log_level="error"))
    await server.serve(sockets=[listener])


asyncio.run(main())
