// OpenID provider for tests; its claims imitate INDIGO IAM (GROUPS=groups: its own profile, else the WLCG profile).
// Started by tests/oidckit.py, which lays it beside node_modules: npm install oidc-provider@9.13.3
import * as oidc from 'oidc-provider';
import { generateKeyPairSync } from 'node:crypto';

const Provider = oidc.Provider ?? oidc.default;
const port = Number(process.env.PORT ?? 15556);
const issuer = `http://127.0.0.1:${port}`;
const callback = process.env.CALLBACK ?? 'http://127.0.0.1:18000/auth/callback';
const audience = process.env.AUDIENCE ?? 'https://fl.example';

const jwk = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
Object.assign(jwk, { kid: 'rsa1', use: 'sig', alg: 'RS256' });

const users = {
  anna: { name: 'Anna', email: 'anna@example.org', groups: ['hbd', 'hbd/admins'] },
  fulvia: { name: 'Fulvia', groups: ['hbd/admins'] },
  carla: { name: '<script>alert(1)</script>', groups: ['hbd/stewards'] },
  dario: { name: 'Dario', groups: ['hbd/dpo'] },
  bice: { name: 'Bice', groups: ['hbd'] },
  eva: { name: 'Eva', groups: ['elsewhere'] },
  bruno: { name: 'Bruno', email: 'bruno@example.org', groups: ['hbd'] },
};
const slashed = (id) => (users[id]?.groups ?? []).map((g) => `/${g}`);
const identity = (id) => ({
  ...users[id], sub: id, preferred_username: id, organisation_name: 'hbd',
  'wlcg.groups': slashed(id),
});

const provider = new Provider(issuer, {
  jwks: { keys: [jwk] },
  clients: [
    { client_id: 'dash', client_secret: 'dash-secret', redirect_uris: [callback],
      response_types: ['code'],
      grant_types: ['authorization_code', 'refresh_token',
        'urn:ietf:params:oauth:grant-type:device_code'] },
    { client_id: 'cli', token_endpoint_auth_method: 'none', redirect_uris: [], response_types: [],
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code'] },
    { client_id: 'other', client_secret: 'other-secret', redirect_uris: [callback],
      response_types: ['code'], grant_types: ['authorization_code'] },
    { client_id: 'node-a', client_secret: 'node-secret', redirect_uris: [], response_types: [],
      grant_types: ['client_credentials'], scope: 'fl.submit fl.pull' },
  ],
  scopes: ['openid', 'offline_access', 'profile', 'email', 'wlcg.groups', 'fl.submit', 'fl.pull'],
  claims: {
    openid: ['sub'], email: ['email'], 'wlcg.groups': ['wlcg.groups'],
    profile: ['name', 'preferred_username', 'organisation_name', 'groups'],
  },
  findAccount: (_ctx, id) => ({ accountId: id, claims: async () => identity(id) }),
  features: {
    clientCredentials: { enabled: true }, deviceFlow: { enabled: true },
    introspection: { enabled: true }, revocation: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true, defaultResource: () => audience, useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'fl.submit fl.pull openid profile', audience, accessTokenTTL: 600,
        accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  extraTokenClaims: async (_ctx, token) => ({
    'wlcg.ver': '1.0', 'wlcg.groups': token.accountId ? slashed(token.accountId) : undefined,
  }),
  ttl: { AccessToken: 600, ClientCredentials: 600, DeviceCode: 600, IdToken: 600,
    Grant: 3600, Interaction: 600 },
  cookies: { keys: ['test-only'] },
  pkce: { required: () => true },
});
// Its own pages take their letters from elsewhere: here nothing may leave loopback.
provider.use(async (ctx, next) => {
  if (ctx.path === '/favicon.ico') { ctx.status = 204; return; }
  await next();
  if (typeof ctx.body === 'string') ctx.body = ctx.body.replace(/@import[^;]*;/g, '');
});
provider.listen(port, '127.0.0.1', () => console.log(`issuer ${issuer}`));
