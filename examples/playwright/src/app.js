// The application: a shop with a page for customers and one for its keeper. It has a pool, commits for itself, and knows
// nothing of tests.
import { createServer } from 'node:http';

// Kept in memory only: it begins anew when the application does.
let visits = 0;

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(title)}</title>
<h1>${escape(title)}</h1><nav><a href="/">Shop</a> <a href="/keeper">Keeper</a></nav>${body}<footer>Visit ${visits}</footer></html>`;

const button = (action, text) => `<form method="post" action="${action}"><button>${escape(text)}</button></form>`;

/** Runs `work` with a client of the pool, in a transaction. */
async function transaction(pool, work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

// The statements have names: each connection of the pool prepares them once, and has them in every test.
const products = {
  name: 'products',
  text: `SELECT p.id, p.name, p.price, coalesce(sum(s.amount), 0) AS stock,
                (SELECT round(avg(stars), 1) FROM review WHERE product_id = p.id) AS stars
         FROM product p LEFT JOIN stock s ON s.product_id = p.id GROUP BY p.id ORDER BY p.id`,
};
const orders = {
  name: 'orders',
  text: `SELECT o.id, c.email, m.total, h.sent_at
         FROM purchase o JOIN customer c ON c.id = o.customer_id
         LEFT JOIN payment m ON m.purchase_id = o.id LEFT JOIN shipment h ON h.purchase_id = o.id ORDER BY o.id`,
};
const customers = { name: 'customers', text: 'SELECT id, email FROM customer ORDER BY id' };

async function shop(pool) {
  // At the same time, through three connections.
  const results = await Promise.all([products, customers, orders].map((query) => pool.query(query)));
  const [product, customer, order] = results.map(({ rows }) => rows);
  const choice = customer.map((c) => `<option value="${c.id}">${escape(c.email)}</option>`).join('');
  const who = `<label>Customer <select name="customer">${choice}</select></label>`;
  return page('Shop', `
    <ul aria-label="Products">${product.map((p) => `
      <li>${escape(p.name)}: ${p.price}, ${p.stock} in stock${p.stars ? `, ${p.stars} stars` : ''}
      <form method="post" action="/order/${p.id}">${who}<label>Amount <input name="amount" value="1"></label>
        <button>Order</button></form>
      <form method="post" action="/review/${p.id}">${who}<label>Stars <input name="stars" value="5"></label>
        <button>Review</button></form></li>`).join('')}</ul>
    <ul aria-label="Orders">${order.map((o) => `<li>Order ${o.id} of ${escape(o.email)}, ${
      o.total ? `${o.total} paid` : button(`/pay/${o.id}`, 'Pay') + button(`/cancel/${o.id}`, 'Cancel')}${
      o.sent_at ? ', sent' : ''}</li>`).join('')}</ul>
    <form method="post" action="/register"><label>Email <input name="email"></label><button>Register</button></form>`);
}

async function keeper(pool) {
  const results = await Promise.all([products, orders].map((query) => pool.query(query)));
  const [product, order] = results.map(({ rows }) => rows);
  return page('Keeper', `
    <form method="post" action="/product"><label>Name <input name="name"></label><label>Price <input name="price"></label>
      <button>Add</button></form>
    <ul aria-label="Products">${product.map((p) => `<li>${escape(p.name)}
      <form method="post" action="/price/${p.id}"><label>Price <input name="price" value="${p.price}"></label>
        <button>Change</button></form></li>`).join('')}</ul>
    <ul aria-label="Orders">${order.filter((o) => o.total && !o.sent_at).map((o) =>
      `<li>Order ${o.id}${button(`/send/${o.id}`, 'Send')}</li>`).join('')}</ul>${button('/close', 'Close down')}`);
}

/** What a form does: its path, with the number that stands in it, and its fields. */
const actions = {
  order: (pool, product, { customer, amount }) => transaction(pool, async (db) => {
    const { rows: [order] } = await db.query('INSERT INTO purchase (customer_id) VALUES ($1) RETURNING id', [customer]);
    const { rowCount } = await db.query(
      'UPDATE stock SET amount = amount - $1 WHERE product_id = $2 AND amount >= $1', [amount, product]);
    if (rowCount === 0) {
      throw new Error('Out of stock');
    }
    await db.query('INSERT INTO purchase_item VALUES ($1, $2, $3)', [order.id, product, amount]);
  }),
  review: (pool, product, { customer, stars }) =>
    pool.query('INSERT INTO review VALUES ($1, $2, $3)', [customer, product, stars]),
  pay: (pool, order) => pool.query(
    `INSERT INTO payment (purchase_id, total)
     SELECT i.purchase_id, sum(p.price * i.amount)
     FROM purchase_item i JOIN product p ON p.id = i.product_id WHERE i.purchase_id = $1 GROUP BY 1`, [order]),
  cancel: (pool, order) => transaction(pool, async (db) => {
    await db.query(
      `UPDATE stock s SET amount = s.amount + i.amount
       FROM purchase_item i WHERE i.product_id = s.product_id AND i.purchase_id = $1`, [order]);
    await db.query('DELETE FROM purchase WHERE id = $1', [order]);
  }),
  send: (pool, order) => pool.query(
    `INSERT INTO shipment SELECT o.id, a.id, now() FROM purchase o JOIN address a ON a.customer_id = o.customer_id
     WHERE o.id = $1 LIMIT 1`, [order]),
  register: (pool, _, { email }) => pool.query('INSERT INTO customer (email) VALUES ($1)', [email]),
  product: (pool, _, { name, price }) =>
    pool.query('INSERT INTO product (supplier_id, name, price) VALUES (1, $1, $2)', [name, price]),
  price: (pool, product, { price }) => transaction(pool, async (db) => {
    await db.query('INSERT INTO price_change (product_id, price) SELECT id, price FROM product WHERE id = $1', [product]);
    await db.query('UPDATE product SET price = $1 WHERE id = $2', [price, product]);
  }),
  close: (pool) => pool.query('TRUNCATE product, customer, purchase CASCADE'),
};

async function respond(pool, request, response) {
  const [, action, number] = request.url.split('/');
  if (request.method === 'POST' && Object.hasOwn(actions, action)) {
    let body = '';
    for await (const part of request) {
      body += part;
    }
    await actions[action](pool, number, Object.fromEntries(new URLSearchParams(body)));
    response.writeHead(303, { location: ['product', 'price', 'send', 'close'].includes(action) ? '/keeper' : '/' }).end();
  } else if (request.method === 'GET' && ['', 'keeper'].includes(action)) {
    visits++;
    const html = await (action ? keeper : shop)(pool);
    response.writeHead(200, { 'content-type': 'text/html' }).end(html);
  } else {
    response.writeHead(404).end(page('Not found', ''));
  }
}

/** The application, as an HTTP server that answers from the pool. */
export const createApp = (pool) => createServer((request, response) =>
  respond(pool, request, response).catch(({ message }) =>
    response.writeHead(422, { 'content-type': 'text/html' }).end(page('Sorry', `<p role="alert">${escape(message)}</p>`))));
