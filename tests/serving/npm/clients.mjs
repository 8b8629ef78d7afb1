// node clients.mjs ADDRESS QUERY BEST DOCUMENT… : what each client makes of the ranking, as JSON.
import { createCohere } from "@ai-sdk/cohere";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";

const [address, query, best, ...documents] = process.argv.slice(2);
const topN = Number(best);

async function vercel() {
  const cohere = createCohere({ baseURL: `${address}/v2`, apiKey: "key" });
  const { ranking } = await rerank({ model: cohere.reranking("any"), query, documents, topN, maxRetries: 0 });
  return ranking.map((row) => [row.originalIndex, row.score]);
}

async function cohere(Client) {
  const client = new Client({ token: "key", environment: address });
  const { results } = await client.rerank({ model: "any", query, documents, topN }, { maxRetries: 0 });
  return results.map((row) => [row.index, row.relevanceScore]);
}

console.log(
  JSON.stringify({ vercel: await vercel(), cohere_v2: await cohere(CohereClientV2), cohere_v1: await cohere(CohereClient) }),
);
