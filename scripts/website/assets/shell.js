"use strict";
// The link to the other language keeps the place on the page.
const twin = document.getElementById("twin"), target = twin.getAttribute("href");
const follow = () => twin.setAttribute("href", target + location.hash);
addEventListener("hashchange", follow);
follow();
