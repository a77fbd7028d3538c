// Order and filters of the ranked lists. Without a script all lists stand in the page's own order, and the form is hidden.
"use strict";
(() => {
    const form = document.getElementById("filters");
    if (!form) return;
    const all = document.getElementById("all");
    const count = document.getElementById("count");
    const none = document.getElementById("none");
    const names = document.getElementById("names");
    const lists = [...all.children].map((element) => ({
        element,
        name: element.querySelector("h3").textContent,
        score: Number(element.dataset.score),
        places: [...element.querySelectorAll(".matches > li")],
    }));

    /** What is chosen in a filter; "": everything, also where the page hasn't that filter. */
    const chosen = (id) => document.getElementById(id)?.value ?? "";
    const fits = (wanted, value) => wanted === "" || wanted === value;

    const orders = {
        page: () => 0,
        worst: (a, b) => a.score - b.score,
        best: (a, b) => b.score - a.score,
        name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
    };

    function sort() {
        const sorted = [...lists].sort(orders[chosen("order")]);
        all.append(...sorted.map((list) => list.element));
    }

    function filter() {
        const [person, camera, shown] = ["person", "camera", "shown-camera"].map(chosen);
        let visible = 0;
        for (const { element, places } of lists) {
            for (const place of places) place.hidden = !fits(shown, place.dataset.camera);
            const own = fits(person, element.dataset.person) && fits(camera, element.dataset.camera);
            const some = shown === "" || places.some((place) => !place.hidden);
            element.hidden = !(own && some);
            if (!element.hidden) visible += 1;
        }
        count.textContent = `${visible} of ${lists.length} ${lists.length === 1 ? "list" : "lists"}`;
        none.hidden = visible > 0;
    }

    function update() {
        sort();
        filter();
        all.classList.toggle("with-names", names.checked);
    }

    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    // The fields have their first values only after this event.
    form.addEventListener("reset", () => setTimeout(update));
    form.hidden = false;
    update();
})();
