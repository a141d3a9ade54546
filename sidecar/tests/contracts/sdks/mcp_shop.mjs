// A shop as an MCP server of the official SDK for TypeScript, with sessions, as revisions of MCP before 2026-07-28 have
// them.
//
//     mcp_shop.mjs MODULES
//
// Prints its port. Each call of a tool makes another order: the shop itself never looks whether there is one already.

import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.argv[2]}/`));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { McpServer } = await load("@modelcontextprotocol/sdk/server/mcp.js");
const { StreamableHTTPServerTransport } = await load("@modelcontextprotocol/sdk/server/streamableHttp.js");
const { isInitializeRequest } = await load("@modelcontextprotocol/sdk/types.js");
const { z } = await load("zod");

let orders = 0;

function shop() {
  const server = new McpServer({ name: "shop", version: "1.0.0" });
  const meta = z.object({ "idempotency-key": z.string().optional() }).passthrough().optional();
  const inputSchema = { id: z.number(), meta };
  server.registerTool("complete_checkout", { description: "Places an order.", inputSchema }, async ({ id }, extra) => {
    const progressToken = extra._meta?.progressToken;
    if (progressToken !== undefined) {
      await extra.sendNotification({ method: "notifications/progress", params: { progressToken, progress: 1 } });
    }
    orders += 1;
    const checkout = { id, status: "completed", order: { id: orders } };
    return { content: [{ type: "text", text: JSON.stringify(checkout) }], structuredContent: { checkout } };
  });
  server.registerTool("count_orders", { description: "Counts the orders.", annotations: { readOnlyHint: true } }, async () => ({
    content: [{ type: "text", text: String(orders) }],
    structuredContent: { orders },
  }));
  return server;
}

const sessions = new Map();

async function session(request, message) {
  const known = sessions.get(request.headers["mcp-session-id"]);
  if (known || !isInitializeRequest(message)) return known;
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  await shop().connect(transport);
  return transport;
}

const http = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const message = chunks.length ? JSON.parse(Buffer.concat(chunks)) : undefined;
  const transport = await session(request, message);
  if (!transport) return response.writeHead(404).end();
  await transport.handleRequest(request, response, message);
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
